"""`--trainer-table` requires every task with every method."""


def pytest_collection_finish(session):
    if not session.config.getoption("--trainer-table"):
        return
    from helpers.trainer_table import COMMAND, missing_cases
    from helpers.written_tables import require_cases

    require_cases(session, "--trainer-table", ("task", "method"), missing_cases, COMMAND)
