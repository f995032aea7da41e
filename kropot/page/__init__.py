"""The page for people: one application, which a keeper serves without names, and an owner's machine with them."""
