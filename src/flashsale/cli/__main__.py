"""`python -m flashsale.cli`: the same as `flashsale`."""

from flashsale.cli import main

if __name__ == "__main__":
    main()
