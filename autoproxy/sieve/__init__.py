"""The sieve: rules that drop candidates before they cost anything."""
