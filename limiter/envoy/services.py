"""Envoy's services under Envoy's own names, as a server takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import grpc

from limiter.envoy.access_log import AccessLog
from limiter.envoy.authorization import Authorization
from limiter.envoy.credentials import Credentials
from limiter.envoy.deliveries import Deliveries
from limiter.envoy.hooks import Hooks
from limiter.envoy.options import EnvoyOptions
from limiter.envoy.processing import Processing
from limiter.envoy.settling import Settling
from limiter.envoy.v3 import access_log_pb2, ext_authz_pb2, ext_proc_pb2
from limiter.service.service import Service

AUTHORIZATION: Final = "envoy.service.auth.v3.Authorization"
PROCESSING: Final = "envoy.service.ext_proc.v3.ExternalProcessor"
ACCESS_LOG: Final = "envoy.service.accesslog.v3.AccessLogService"


def handlers(
    service: Service,
    *,
    options: EnvoyOptions,
    credentials: Credentials,
    hooks: Hooks,
    trusted: bool,
    settling: Settling | None = None,
) -> Mapping[str, Mapping[str, grpc.RpcMethodHandler]]:
    """The methods of every service, by the service's name, for one listener.

    `settling` is shared by all listeners, and to be drained when they have stopped.
    """
    settling = settling or Settling(service)
    processing = Processing(settling, options)
    deliveries = Deliveries()
    access_log = AccessLog(settling, deliveries, draining=hooks.draining)
    authorization = Authorization(
        service,
        options=options,
        credentials=credentials,
        hooks=hooks,
        trusted=trusted,
        settling=settling,
        deliveries=deliveries,
    )
    return {
        AUTHORIZATION: {
            "Check": _unary(authorization.check, ext_authz_pb2.CheckRequest, ext_authz_pb2.CheckResponse),
        },
        PROCESSING: {
            "Process": grpc.stream_stream_rpc_method_handler(
                processing.process,
                ext_proc_pb2.ProcessingRequest.FromString,
                ext_proc_pb2.ProcessingResponse.SerializeToString,
            ),
        },
        ACCESS_LOG: {
            "StreamAccessLogs": grpc.stream_unary_rpc_method_handler(
                access_log.stream_access_logs,
                access_log_pb2.StreamAccessLogsMessage.FromString,
                access_log_pb2.StreamAccessLogsResponse.SerializeToString,
            ),
        },
    }


def _unary(behaviour: Any, request: Any, response: Any) -> grpc.RpcMethodHandler:  # noqa: ANN401 - grpc has no types
    return grpc.unary_unary_rpc_method_handler(behaviour, request.FromString, response.SerializeToString)
