"""Who answers requests."""

from typing import Protocol, runtime_checkable

from saestore.interpret.request import Answer, Request


@runtime_checkable
class Ask(Protocol):
    """Something that answers requests: an endpoint, with a cassette before it; or a cassette alone."""

    async def ask(self, request: Request) -> Answer:
        """Return the answer.

        Raises:
            EndpointError: It cannot be reached or refuses, for good.
            BudgetError: It could take more than the budget leaves.
            ReplayError: Only a cassette answers, and it has none.
        """
        ...
