"""`python -m resnest_cli`, and the console script `resnest`."""

from resnest_cli.app import main

if __name__ == "__main__":
    main()
