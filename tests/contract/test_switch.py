"""What the kill switch of every broker does."""

from __future__ import annotations

from tests.contract.conftest import Connect


def test_a_pause_holds_for_all_until_somebody_resumes(connect: Connect) -> None:
    one, other = connect().stores.switch(), connect().stores.switch()
    assert not one.paused()
    one.pause()
    one.pause()
    assert one.paused()
    assert other.paused()
    other.resume()
    other.resume()
    assert not one.paused()
