"""pydantic-ai, with the model class that the command line names: chat or responses."""

from __future__ import annotations

import sys
from typing import Any

import asked
from openai import AsyncOpenAI
from pydantic_ai import Agent, BinaryContent, Embedder
from pydantic_ai.embeddings.openai import OpenAIEmbeddingModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

client = AsyncOpenAI(base_url=f"{asked.URL}/v1", api_key=asked.KEY, max_retries=0)
provider = OpenAIProvider(openai_client=client)
model: Any = (OpenAIResponsesModel if sys.argv[1] == "responses" else OpenAIChatModel)("auto", provider=provider)


async def chat() -> Any:
    return (await Agent(model).run(asked.QUESTION)).output


async def stream() -> Any:
    async with Agent(model).run_stream(asked.QUESTION) as result:
        return [piece async for piece in result.stream_text(delta=True, debounce_by=None)]


async def tools() -> Any:
    agent = Agent(model, tools=[asked.get_weather, asked.read_clock], retries=0)
    return asked.looped((await agent.run(asked.TOOLS_QUESTION)).output)


async def structured() -> Any:
    return (await Agent(model, output_type=asked.City, retries=0).run(asked.CITY_QUESTION)).output.model_dump()


async def image() -> Any:
    picture = BinaryContent(asked.PNG, media_type="image/png")
    return (await Agent(model).run([asked.IMAGE_QUESTION, picture])).output


async def embeddings() -> Any:
    embedder = Embedder(OpenAIEmbeddingModel(asked.EMBEDDING_MODEL, provider=provider))
    query = await embedder.embed_query(asked.TEXTS[0])
    documents = await embedder.embed_documents(asked.TEXTS[1:])
    return [list(vector) for vector in (*query.embeddings, *documents.embeddings)]


asked.report(
    chat=chat, stream=stream, tools=tools, structured=structured, image=image, embeddings=embeddings,
    batch=asked.absent(),
)  # fmt: skip
