"""The POP3 door: RFC 1939 with CAPA, STLS, SASL and response codes, over the store."""
