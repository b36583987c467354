import warnings

import pytest

from scripts.silence import silence_libraries


def test_keeps_quiet_what_is_known_and_nothing_else() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        silence_libraries()
        warnings.warn("The 'train_dataloader' does not have many workers which may be a bottleneck.", stacklevel=1)
        with pytest.raises(UserWarning, match="something else"):
            warnings.warn("something else", stacklevel=1)
