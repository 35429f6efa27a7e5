"""LlamaIndex."""

from __future__ import annotations

from typing import Any

import asked
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage, ImageBlock, TextBlock
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike

llm = OpenAILike(
    model="auto", api_base=f"{asked.URL}/v1", api_key=asked.KEY, max_retries=0, is_chat_model=True,
    is_function_calling_model=True,
)  # fmt: skip


def chat() -> Any:
    return llm.chat([ChatMessage(role="user", content=asked.QUESTION)]).message.content


def stream() -> Any:
    return [piece.delta for piece in llm.stream_chat([ChatMessage(role="user", content=asked.QUESTION)]) if piece.delta]


async def tools() -> Any:
    agent = FunctionAgent(tools=[asked.get_weather, asked.read_clock], llm=llm)
    return asked.looped(str(await agent.run(asked.TOOLS_QUESTION)))


def structured() -> Any:
    answer = llm.as_structured_llm(asked.City).chat([ChatMessage(role="user", content=asked.CITY_QUESTION)])
    return answer.raw.model_dump()


def image() -> Any:
    blocks = [TextBlock(text=asked.IMAGE_QUESTION), ImageBlock(image=asked.PNG_BASE64, image_mimetype="image/png")]
    return llm.chat([ChatMessage(role="user", blocks=blocks)]).message.content


def embeddings() -> Any:
    model = OpenAILikeEmbedding(
        model_name=asked.EMBEDDING_MODEL, api_base=f"{asked.URL}/v1", api_key=asked.KEY, max_retries=0
    )
    return [model.get_query_embedding(asked.TEXTS[0]), *model.get_text_embedding_batch(asked.TEXTS[1:])]


asked.report(
    chat=chat, stream=stream, tools=tools, structured=structured, image=image, embeddings=embeddings,
    batch=asked.absent(),
)  # fmt: skip
