"""All event classes.

Generated from schemas/ by `make generate`; edit the schemas instead.
"""

from headrace_contracts.events.access import AccessKey
from headrace_contracts.events.audit import AuditRecorded
from headrace_contracts.events.common import Content, Failure, Lane, Mode, Position, Privacy, Usage
from headrace_contracts.events.deadletters import DeadLetter, DeadLetterHandled, Handling, Header
from headrace_contracts.events.fleet import ModelStatus, NodeStatus, Place
from headrace_contracts.events.settings import Preferences, PrivacyLevel
from headrace_contracts.events.skills import SkillAction, SkillChange, SkillChanged, SkillPublished, SkillStatus, SkillSubmitted, SkillVersion
from headrace_contracts.events.spend import SpendWindows, Window
from headrace_contracts.events.tasks import AttemptState, Command, CommandKind, EntryKind, InputEvent, JournalEntry, Message, Outcome, Rejection, ReplyKind, Sampling, ServedFrom, TaskCancelled, TaskCompleted, TaskPhase, TaskReply, TaskState, TaskStatus, TaskSubmitted, TrailStep
from headrace_contracts.events.usage import UsageRecorded
from headrace_contracts.events.work import AttemptFinished, AttemptRequested

__all__ = [
    "AccessKey",
    "AttemptFinished",
    "AttemptRequested",
    "AttemptState",
    "AuditRecorded",
    "Command",
    "CommandKind",
    "Content",
    "DeadLetter",
    "DeadLetterHandled",
    "EntryKind",
    "Failure",
    "Handling",
    "Header",
    "InputEvent",
    "JournalEntry",
    "Lane",
    "Message",
    "Mode",
    "ModelStatus",
    "NodeStatus",
    "Outcome",
    "Place",
    "Position",
    "Preferences",
    "Privacy",
    "PrivacyLevel",
    "Rejection",
    "ReplyKind",
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
    "TrailStep",
    "Usage",
    "UsageRecorded",
    "Window",
]
