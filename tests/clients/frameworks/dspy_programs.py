"""dspy."""

from __future__ import annotations

from typing import Any

import asked
import dspy
from dspy.lm15 import (
    AccessPolicy,
    EndpointSupport,
    ModelSupport,
    OpenAIChatCompat,
    ProviderDefinition,
    register_provider,
)
from dspy.streaming import StreamListener

# dspy uses no tools and no schemas with a model that is not in its catalogue, unless it is told that it can.
register_provider(
    ProviderDefinition.chat(
        AccessPolicy(
            provider="headrace", supports=EndpointSupport(complete=True, stream=True), auth_modes=("bearer",),
            base_url=f"{asked.URL}/v1",
        ),
        compat=OpenAIChatCompat(),
    ),
    supports=ModelSupport(function_calling=True, response_schema=True),
)  # fmt: skip
lm = dspy.LM("headrace/auto", api_base=f"{asked.URL}/v1", api_key=asked.KEY, num_retries=0, cache=False)
dspy.configure(lm=lm, adapter=dspy.JSONAdapter())


class Describe(dspy.Signature):
    """Tell which city is meant."""

    question: str = dspy.InputField()
    name: str = dspy.OutputField()
    population: int = dspy.OutputField()


class Look(dspy.Signature):
    """Describe a picture."""

    picture: dspy.Image = dspy.InputField()
    description: str = dspy.OutputField()


def chat() -> Any:
    return lm(asked.QUESTION)[0]


async def stream() -> Any:
    program = dspy.streamify(
        dspy.Predict("question -> answer"), stream_listeners=[StreamListener(signature_field_name="answer")]
    )
    return [piece.chunk async for piece in program(question=asked.QUESTION) if hasattr(piece, "chunk")]


def tools() -> Any:
    agent = dspy.ReActV2("question -> answer", tools=[asked.get_weather, asked.read_clock], max_iters=3)
    return asked.looped(agent(question=asked.TOOLS_QUESTION).answer)


def structured() -> Any:
    described = dspy.Predict(Describe)(question=asked.CITY_QUESTION)
    return {"name": described.name, "population": described.population}


def image() -> Any:
    dspy.Predict(Look)(picture=dspy.Image(asked.PNG_URL))
    return lm(messages=lm.history[-1]["messages"])[0]


def embeddings() -> Any:
    embedder = dspy.Embedder(
        f"openai/{asked.EMBEDDING_MODEL}",
        api_base=f"{asked.URL}/v1",
        api_key=asked.KEY,
        caching=False,
        num_retries=0,
    )
    return [[float(value) for value in vector] for vector in embedder(asked.TEXTS)]


def batch() -> Any:
    asking = [dspy.Example(question=question).with_inputs("question") for question in asked.BATCH_QUESTIONS]
    answers = dspy.Predict("question -> answer").batch(asking, num_threads=2)
    return {question: one.answer for question, one in zip(asked.BATCH_QUESTIONS, answers, strict=True)}


asked.report(
    chat=chat, stream=stream, tools=tools, structured=structured, image=image, embeddings=embeddings, batch=batch
)
