"""The SMTP doors: the MX door and the submission doors."""
