"""Storages that are not a local folder: buckets and SFTP servers, with the same promises."""
