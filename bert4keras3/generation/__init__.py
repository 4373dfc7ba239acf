"""Text generation: one compiled loop for every family."""

from bert4keras3.generation.autoregressive import AutoRegressiveDecoder
from bert4keras3.generation.chat import Chat
from bert4keras3.generation.conversation import Conversation
from bert4keras3.generation.options import Options
from bert4keras3.generation.programs import GenerationError
from bert4keras3.generation.sampling import Greedy, Sampler
from bert4keras3.generation.text import IncrementalDecoder, TextGenerator
