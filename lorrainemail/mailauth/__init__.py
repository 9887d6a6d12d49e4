"""Who a message is really from: SPF, DKIM, DMARC, ARC, and the field that tells of it."""
