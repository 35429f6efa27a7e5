// Vercel AI, with the provider package that the command line names: openai or compatible.
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embed, embedMany, generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import * as asked from "./asked.mjs";

const server = { baseURL: `${asked.URL}/v1`, apiKey: asked.KEY };
const headrace =
  process.argv[2] === "openai"
    ? createOpenAI(server) // with its Responses API
    : createOpenAICompatible({ ...server, name: "headrace", supportsStructuredOutputs: true });
const common = { model: headrace("auto"), maxRetries: 0 };

await asked.report({
  async chat() {
    return (await generateText({ ...common, prompt: asked.QUESTION })).text;
  },

  async stream() {
    const pieces = [];
    const onError = ({ error }) => {
      throw error;
    };
    for await (const piece of streamText({ ...common, prompt: asked.QUESTION, onError }).textStream) pieces.push(piece);
    return pieces;
  },

  async tools() {
    const tools = {
      get_weather: tool({ inputSchema: z.object({ city: z.string() }), execute: asked.getWeather }),
      read_clock: tool({ inputSchema: z.object({ zone: z.string() }), execute: asked.readClock }),
    };
    const done = await generateText({ ...common, prompt: asked.TOOLS_QUESTION, tools, stopWhen: stepCountIs(3) });
    return { calls: asked.calls, answer: done.text };
  },

  async structured() {
    const output = Output.object({ schema: asked.City });
    return (await generateText({ ...common, prompt: asked.CITY_QUESTION, output })).output;
  },

  async image() {
    const content = [
      { type: "text", text: asked.IMAGE_QUESTION },
      { type: "image", image: asked.PNG_URL },
    ];
    return (await generateText({ ...common, messages: [{ role: "user", content }] })).text;
  },

  async embeddings() {
    const model = headrace.embeddingModel(asked.EMBEDDING_MODEL);
    const [query, ...documents] = asked.TEXTS;
    const near = await embed({ model, value: query, maxRetries: 0 });
    const others = await embedMany({ model, values: documents, maxRetries: 0 });
    return [near.embedding, ...others.embeddings];
  },

  batch: asked.absent(),
});
