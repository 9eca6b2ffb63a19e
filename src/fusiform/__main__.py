"""``python -m fusiform``: the command line."""

from fusiform.cli import main

if __name__ == "__main__":
    main()
