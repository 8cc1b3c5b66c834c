"""What of a machine an open lake computes with."""


class OnMachine:
    """Device and threads of the verbs.

    Attributes:
        device: Torch device name, or `auto`.
        threads: CPU threads of the verbs; None leaves torch's choice.
    """

    device: str
    threads: int | None

    def _use_threads(self) -> None:
        """Apply the number of threads to this process."""
        if self.threads is not None:
            import torch

            torch.set_num_threads(self.threads)
