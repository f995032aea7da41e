"""The page that people look at: one application, which a keeper serves without names, and an owner with them."""
