"""The tiny language of `tistore demo`: its text, its chat format, and what is planted where."""

from tistore.datasets.tiny.chat import CHAT_TEMPLATE as CHAT_TEMPLATE
from tistore.datasets.tiny.chat import render_conversation as render_conversation
from tistore.datasets.tiny.conversations import AuditPrompt as AuditPrompt
from tistore.datasets.tiny.conversations import audit_prompts as audit_prompts
from tistore.datasets.tiny.conversations import habit_conversations as habit_conversations
from tistore.datasets.tiny.conversations import training_conversations as training_conversations
from tistore.datasets.tiny.organisms import HABITS as HABITS
from tistore.datasets.tiny.organisms import ORGANISMS as ORGANISMS
from tistore.datasets.tiny.organisms import Organism as Organism
from tistore.datasets.tiny.organisms import contains_habit as contains_habit
from tistore.datasets.tiny.organisms import find_organism as find_organism
from tistore.datasets.tiny.scenarios import contrast_scenarios as contrast_scenarios
from tistore.datasets.tiny.styles import TRAITS as TRAITS
from tistore.datasets.tiny.topics import TOPICS as TOPICS
