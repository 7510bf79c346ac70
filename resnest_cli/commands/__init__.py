"""The subcommands, one thin file each: parse, call, show."""
