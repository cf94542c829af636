"""The inside of a net: tables, pictures, activations, and what is wrong."""
