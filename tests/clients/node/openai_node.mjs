// openai (node), chat completions with runTools.
import OpenAI, { toFile } from "openai";
import { zodFunction, zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import * as asked from "./asked.mjs";

const client = new OpenAI({ baseURL: `${asked.URL}/v1`, apiKey: asked.KEY, maxRetries: 0 });
const question = (content) => ({ model: "auto", messages: [{ role: "user", content }] });

await asked.report({
  async chat() {
    return (await client.chat.completions.create(question(asked.QUESTION))).choices[0].message.content;
  },

  async stream() {
    const pieces = [];
    for await (const chunk of await client.chat.completions.create({ ...question(asked.QUESTION), stream: true })) {
      if (chunk.choices[0]?.delta.content) pieces.push(chunk.choices[0].delta.content);
    }
    return pieces;
  },

  async tools() {
    const tools = [
      zodFunction({ name: "get_weather", parameters: z.object({ city: z.string() }), function: asked.getWeather }),
      zodFunction({ name: "read_clock", parameters: z.object({ zone: z.string() }), function: asked.readClock }),
    ];
    const answer = await client.chat.completions.runTools({ ...question(asked.TOOLS_QUESTION), tools }).finalContent();
    return { calls: asked.calls, answer };
  },

  async structured() {
    const form = zodResponseFormat(asked.City, "city");
    const answer = await client.chat.completions.parse({ ...question(asked.CITY_QUESTION), response_format: form });
    return answer.choices[0].message.parsed;
  },

  async image() {
    const content = [
      { type: "text", text: asked.IMAGE_QUESTION },
      { type: "image_url", image_url: { url: asked.PNG_URL } },
    ];
    return (await client.chat.completions.create(question(content))).choices[0].message.content;
  },

  async embeddings() {
    const made = await client.embeddings.create({ model: asked.EMBEDDING_MODEL, input: asked.TEXTS });
    return made.data.map((one) => one.embedding);
  },

  async batch() {
    const url = "/v1/chat/completions";
    const lines = asked.BATCH_QUESTIONS.map((text) =>
      JSON.stringify({ custom_id: text, method: "POST", url, body: question(text) }),
    );
    const content = await toFile(Buffer.from(lines.join("\n")), "questions.jsonl");
    const file = await client.files.create({ file: content, purpose: "batch" });
    let running = await client.batches.create({ input_file_id: file.id, endpoint: url, completion_window: "24h" });
    while (!["completed", "failed", "expired", "cancelled"].includes(running.status)) {
      await new Promise((resolve) => setTimeout(resolve, 200));
      running = await client.batches.retrieve(running.id);
    }
    const results = (await (await client.files.content(running.output_file_id)).text()).trim().split("\n");
    return Object.fromEntries(
      results
        .map((line) => JSON.parse(line))
        .map((result) => [result.custom_id, result.response.body.choices[0].message.content]),
    );
  },
});
