"""All event classes.

Generated from schemas/ by `make generate`; edit the schemas instead.
"""

from headrace_contracts.events.access import AccessKey, RequestsCounted
from headrace_contracts.events.audit import AuditRecorded
from headrace_contracts.events.common import Content, Failure, Lane, Mode, Position, Privacy, Usage
from headrace_contracts.events.deadletters import DeadLetter, DeadLetterHandled, Handling, Header
from headrace_contracts.events.fleet import AnnouncedModel, Gpu, ModelStatus, NodeAnnounced, NodeDrained, NodeStatus, Place, PlacementAction, PlacementPhase, PlacementRequested, PlacementStatus
from headrace_contracts.events.settings import Preferences, PrivacyLevel
from headrace_contracts.events.skills import SkillAction, SkillChange, SkillChanged, SkillPublished, SkillStatus, SkillSubmitted, SkillVersion
from headrace_contracts.events.spend import SpendWindows, Window
from headrace_contracts.events.tasks import AnswerChoice, AnswerPiece, AttemptState, Citation, Command, CommandKind, EntryKind, HistoryChangeKind, HistoryChanged, InputEvent, JournalEntry, Message, MessagePart, ModelOperation, Options, Outcome, PartKind, Rejection, ReplyKind, ResponseFormat, ResponseFormatKind, Sampling, ServedFrom, TaskCancelled, TaskCompleted, TaskPhase, TaskReply, TaskState, TaskStatus, TaskSubmitted, Tool, ToolChoice, ToolChoiceMode, TrailStep, Turn
from headrace_contracts.events.usage import UsageRecorded
from headrace_contracts.events.work import AttemptFinished, AttemptRequested, AttemptStarted, AttemptsCancelled, LostExecution

__all__ = [
    "AccessKey",
    "AnnouncedModel",
    "AnswerChoice",
    "AnswerPiece",
    "AttemptFinished",
    "AttemptRequested",
    "AttemptStarted",
    "AttemptState",
    "AttemptsCancelled",
    "AuditRecorded",
    "Citation",
    "Command",
    "CommandKind",
    "Content",
    "DeadLetter",
    "DeadLetterHandled",
    "EntryKind",
    "Failure",
    "Gpu",
    "Handling",
    "Header",
    "HistoryChangeKind",
    "HistoryChanged",
    "InputEvent",
    "JournalEntry",
    "Lane",
    "LostExecution",
    "Message",
    "MessagePart",
    "Mode",
    "ModelOperation",
    "ModelStatus",
    "NodeAnnounced",
    "NodeDrained",
    "NodeStatus",
    "Options",
    "Outcome",
    "PartKind",
    "Place",
    "PlacementAction",
    "PlacementPhase",
    "PlacementRequested",
    "PlacementStatus",
    "Position",
    "Preferences",
    "Privacy",
    "PrivacyLevel",
    "Rejection",
    "ReplyKind",
    "RequestsCounted",
    "ResponseFormat",
    "ResponseFormatKind",
    "Sampling",
    "ServedFrom",
    "SkillAction",
    "SkillChange",
    "SkillChanged",
    "SkillPublished",
    "SkillStatus",
    "SkillSubmitted",
    "SkillVersion",
    "SpendWindows",
    "TaskCancelled",
    "TaskCompleted",
    "TaskPhase",
    "TaskReply",
    "TaskState",
    "TaskStatus",
    "TaskSubmitted",
    "Tool",
    "ToolChoice",
    "ToolChoiceMode",
    "TrailStep",
    "Turn",
    "Usage",
    "UsageRecorded",
    "Window",
]
