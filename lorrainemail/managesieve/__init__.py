"""The ManageSieve door (RFC 5804): users and their mail programs look after filter scripts."""
