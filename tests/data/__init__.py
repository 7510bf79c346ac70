"""Photos for the tests, and the tests of `resnest_cli.data`."""
