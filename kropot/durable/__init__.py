"""Every temporary file, sync, rename and walk by directory descriptor that the program makes."""
