"""`python -m bench.demo` runs the search demo."""

from bench.demo.search import main

if __name__ == "__main__":
    main()
