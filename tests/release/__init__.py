"""Tries a release as a new user would (`make release-check`); no part of `make test`."""
