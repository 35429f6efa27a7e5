// What all frameworks are asked, and how a script hands over what it got: one line of JSON for each column.
import { readFileSync } from "node:fs";
import { z } from "zod";

const asked = JSON.parse(readFileSync(process.env.HEADRACE_ASKED, "utf8"));
export const URL = process.env.HEADRACE_URL;
export const KEY = process.env.HEADRACE_API_KEY;
export const EMBEDDING_MODEL = process.env.HEADRACE_EMBEDDING_MODEL;
export const QUESTION = asked.question;
export const TOOLS_QUESTION = asked.tools_question;
export const CITY_QUESTION = asked.city_question;
export const IMAGE_QUESTION = asked.image_question;
export const PNG_URL = `data:image/png;base64,${asked.png}`;
export const TEXTS = asked.texts;
export const BATCH_QUESTIONS = asked.batch_questions;

export const City = z.object({ name: z.string(), population: z.number().int() });

export const calls = [];

export function getWeather({ city }) {
  calls.push(["get_weather", { city }]);
  return `sunny in ${city}`;
}

export function readClock({ zone }) {
  calls.push(["read_clock", { zone }]);
  return `it is noon in ${zone}`;
}

class Absent extends Error {}

export const absent = (reason = "") => () => {
  throw new Absent(reason);
};

export async function report(columns) {
  const wanted = (process.env.HEADRACE_COLUMNS ?? "").split(" ").filter(Boolean);
  for (const [name, column] of Object.entries(columns)) {
    if (wanted.length && !wanted.includes(name)) continue;
    calls.length = 0;
    const line = { column: name, begun: Date.now() / 1000 };
    try {
      line.value = await column();
    } catch (error) {
      if (error instanceof Absent) line.absent = error.message;
      else {
        console.error(error);
        line.error = `${error.name}: ${error.message}`;
      }
    }
    line.ended = Date.now() / 1000;
    console.log(JSON.stringify(line));
  }
}
