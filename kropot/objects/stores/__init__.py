"""Storages that are not a local folder: buckets and SFTP servers, behind the same promises."""
