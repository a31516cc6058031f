"""Early stopping: the weights with the least validation loss so far, and the epochs since."""

import copy

import torch
from torch import Tensor, nn


class Best(nn.Module):
    """The `network` with the least validation loss of the epochs so far; a checkpoint keeps it."""

    loss: Tensor
    waited: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network)
        self.register_buffer("loss", torch.tensor(float("inf")))
        self.register_buffer("waited", torch.tensor(0))

    def consider(self, network: nn.Module, loss: float) -> None:
        """Keeps the weights of `network` if its validation loss is the least; counts the epoch."""
        if loss < float(self.loss):
            self.network.load_state_dict(network.state_dict())
            self.loss.fill_(loss)
            self.waited.zero_()
        else:
            self.waited += 1
