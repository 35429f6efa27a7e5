"""Headrace client: over HTTP (`Client`), directly over Kafka (`headrace.kafka.KafkaClient`), and `consume` for typed
events.
"""

from typing import TYPE_CHECKING, Any

from headrace.addresses import Addresses, locate
from headrace.client import AnswerStream, Client, TaskHandle
from headrace.costs import CostGroup, CostReport, CostSums, SpendWindow
from headrace.errors import (
    AnswerInvalid,
    Conflict,
    Declined,
    HeadraceError,
    Misconfigured,
    NoAnswer,
    NotAllowed,
    NotFound,
    NotUnderstood,
    NotYet,
    OverBudget,
    RequestError,
    RequestInvalid,
    RetryLater,
    ServiceFailed,
    TooManyRounds,
    Unavailable,
)
from headrace.messages import (
    Audio,
    File,
    Image,
    Message,
    Part,
    Prompt,
    Reasoning,
    RefusalText,
    Text,
    ToolCall,
    ToolResult,
)
from headrace.pieces import Piece
from headrace.requests import TaskOptions
from headrace.results import (
    AnswerChoice,
    Cascade,
    Citation,
    Ensemble,
    Failure,
    Key,
    NewKey,
    Preferences,
    Task,
    TaskPage,
    TeamMember,
    TrailStep,
    Usage,
)
from headrace.skills import Skill, SkillNews, SkillVersion
from headrace.tool_loop import ToolRun, ToolStep
from headrace.tools import Tool

if TYPE_CHECKING:
    from headrace.connecting import Cluster
    from headrace.consuming import Consumption, Delivered, Newest, consume
    from headrace.kafka import KafkaClient

__all__ = [
    "Addresses",
    "AnswerChoice",
    "AnswerInvalid",
    "AnswerStream",
    "Audio",
    "Cascade",
    "Citation",
    "Client",
    "Cluster",
    "Conflict",
    "Consumption",
    "CostGroup",
    "CostReport",
    "CostSums",
    "Declined",
    "Delivered",
    "Ensemble",
    "Failure",
    "File",
    "HeadraceError",
    "Image",
    "KafkaClient",
    "Key",
    "Message",
    "Misconfigured",
    "NewKey",
    "Newest",
    "NoAnswer",
    "NotAllowed",
    "NotFound",
    "NotUnderstood",
    "NotYet",
    "OverBudget",
    "Part",
    "Piece",
    "Preferences",
    "Prompt",
    "Reasoning",
    "RefusalText",
    "RequestError",
    "RequestInvalid",
    "RetryLater",
    "ServiceFailed",
    "Skill",
    "SkillNews",
    "SkillVersion",
    "SpendWindow",
    "Task",
    "TaskHandle",
    "TaskOptions",
    "TaskPage",
    "TeamMember",
    "Text",
    "TooManyRounds",
    "Tool",
    "ToolCall",
    "ToolResult",
    "ToolRun",
    "ToolStep",
    "TrailStep",
    "Unavailable",
    "Usage",
    "consume",
    "locate",
]

_OVER_KAFKA = {
    "Cluster": "headrace.connecting",
    "Consumption": "headrace.consuming",
    "Delivered": "headrace.consuming",
    "KafkaClient": "headrace.kafka",
    "Newest": "headrace.consuming",
    "consume": "headrace.consuming",
}


def __getattr__(name: str) -> Any:
    # The Kafka parts load the client library and all schemas, which programs that only use HTTP should not pay for.
    if name not in _OVER_KAFKA:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_OVER_KAFKA[name]), name)
