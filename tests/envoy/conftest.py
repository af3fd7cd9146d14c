"""A sidecar as Envoy sees it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from limiter.rpc.engines import Engine, native_installed
from tests.fakes.fake_store import fake_client
from tests.fakes.plugin import StoreClock

pytest.register_assert_rewrite("tests.rules.desk", "tests.envoy.checks")

from tests.envoy.checks import Front  # noqa: E402 - after its asserts were told to explain themselves
from tests.rules.desk import Limiter  # noqa: E402 - as above


@pytest.fixture
async def front(request: pytest.FixtureRequest, store_clock: StoreClock) -> AsyncIterator[Front]:
    """A sidecar on a fake store, not yet started; on the engine that `engines` names, else on the usual one."""
    engine = getattr(request, "param", Engine.AUTO)
    if engine is Engine.NATIVE and not native_installed():
        pytest.skip("pygrpc-native is not installed here")
    limiter = Limiter(fake_client(), store_clock)
    front = Front(limiter, engine)
    yield front
    await front.close()
    await limiter.dump()
    await limiter.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests that are marked by `each_engine` on each."""
    if metafunc.definition.get_closest_marker("each_engine"):
        metafunc.parametrize("front", [Engine.NATIVE, Engine.GRPCIO], indirect=True)


def pytest_configure(config: pytest.Config) -> None:
    """Tell of the mark."""
    config.addinivalue_line("markers", "each_engine: run on pygrpc-native and on grpcio")
