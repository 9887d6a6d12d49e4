"""The table backend that is there by default: text files in the state directory."""

from lorrainemail.tables.files import FileBackend

files = FileBackend()
