"""LangChain, with the chat model that the command line names: openai, anthropic or ollama."""

from __future__ import annotations

import sys
from typing import Any

import asked
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage

LOGIN = {"headers": {"Authorization": f"Bearer {asked.KEY}"}}
model: Any
vectors: Any
match sys.argv[1]:
    case "openai":
        from langchain_openai import ChatOpenAI, OpenAIEmbeddings

        model = ChatOpenAI(model="auto", base_url=f"{asked.URL}/v1", api_key=asked.KEY, max_retries=0)
        vectors = OpenAIEmbeddings(
            model=asked.EMBEDDING_MODEL, base_url=f"{asked.URL}/v1", api_key=asked.KEY, max_retries=0,
            check_embedding_ctx_length=False,  # LangChain's setting for servers that are not OpenAI's
        )  # fmt: skip
    case "anthropic":
        from langchain_anthropic import ChatAnthropic

        model = ChatAnthropic(model="auto", base_url=asked.URL, api_key=asked.KEY, max_retries=0, max_tokens=500)
        vectors = None
    case _:
        from langchain_ollama import ChatOllama, OllamaEmbeddings

        model = ChatOllama(model="auto", base_url=asked.URL, client_kwargs=LOGIN)
        vectors = OllamaEmbeddings(model=asked.EMBEDDING_MODEL, base_url=asked.URL, client_kwargs=LOGIN)


def chat() -> Any:
    return model.invoke(asked.QUESTION).text


def stream() -> Any:
    return [chunk.text for chunk in model.stream(asked.QUESTION) if chunk.text]


def tools() -> Any:
    agent = create_agent(model, [asked.get_weather, asked.read_clock])
    done = agent.invoke({"messages": [{"role": "user", "content": asked.TOOLS_QUESTION}]})
    return asked.looped(done["messages"][-1].text)


def structured() -> Any:
    return model.with_structured_output(asked.City).invoke(asked.CITY_QUESTION).model_dump()


def image() -> Any:
    content: Any = [
        {"type": "text", "text": asked.IMAGE_QUESTION},
        {"type": "image", "base64": asked.PNG_BASE64, "mime_type": "image/png"},
    ]
    return model.invoke([HumanMessage(content=content)]).text


def embeddings() -> Any:
    if vectors is None:
        raise asked.Absent("Anthropic's API has none")
    return [vectors.embed_query(asked.TEXTS[0]), *vectors.embed_documents(asked.TEXTS[1:])]


def batch() -> Any:
    answers = model.batch(asked.BATCH_QUESTIONS)
    return {question: answer.text for question, answer in zip(asked.BATCH_QUESTIONS, answers, strict=True)}


asked.report(
    chat=chat, stream=stream, tools=tools, structured=structured, image=image, embeddings=embeddings, batch=batch
)
