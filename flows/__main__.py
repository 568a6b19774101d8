"""`python -m flows`: see `flows.command_line`, which worker processes, that import this module too, have no use for."""

if __name__ == "__main__":
    from flows.command_line import main

    main()
