"""The layers, one file a family. Users find them as `fn.Dense`, `fn.Conv` and so on."""
