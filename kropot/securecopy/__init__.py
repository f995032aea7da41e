"""The SecureCopy protocol: values on the wire, sealing, and the client."""
