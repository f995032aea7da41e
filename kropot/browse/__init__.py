"""The owner's part of the page: names and contents are opened here, in the owner's own process."""
