// The `openai` package of npm against a server: what a program in JavaScript would do with a batch.
// Told by the environment: COMPAT_OPENAI (where the package is), COMPAT_BASE_URL, COMPAT_KEY, COMPAT_MODEL.
import assert from "node:assert/strict";
import { createReadStream, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

const { default: OpenAI, APIError, BadRequestError, ConflictError, NotFoundError, toFile } = await import(
  process.env.COMPAT_OPENAI
);
const client = new OpenAI({
  baseURL: process.env.COMPAT_BASE_URL,
  apiKey: process.env.COMPAT_KEY,
  maxRetries: 0,
});
const endpoint = "/v1/chat/completions";
const ended = ["completed", "failed", "expired", "cancelled"];
const endedMaxMs = 240_000;
const folder = mkdtempSync(join(tmpdir(), "compat-"));
after(() => rmSync(folder, { recursive: true }));

function upload(rows, told = "Say hello.", more = {}) {
  const lines = Array.from({ length: rows }, (_, number) => ({
    custom_id: `row-${rows - number}`,
    method: "POST",
    url: endpoint,
    body: {
      model: process.env.COMPAT_MODEL,
      max_tokens: 16,
      messages: [{ role: "user", content: told }],
      ...more,
    },
  }));
  return lines.map((line) => JSON.stringify(line) + "\n").join("");
}

async function created(content) {
  return client.files.create({ file: await toFile(Buffer.from(content), "requests.jsonl"), purpose: "batch" });
}

async function begun(content, more = {}) {
  const file = await created(content);
  return client.batches.create({ input_file_id: file.id, endpoint, completion_window: "24h", ...more });
}

async function finished(batch) {
  for (const began = Date.now(); !ended.includes(batch.status); await sleep(100)) {
    assert.ok(Date.now() - began < endedMaxMs, `${batch.id} is still ${batch.status}`);
    batch = await client.batches.retrieve(batch.id);
  }
  return batch;
}

async function lines(fileId) {
  const text = await (await client.files.content(fileId)).text();
  return text.trimEnd().split("\n").map((line) => JSON.parse(line));
}

test("a_file_goes_up_from_memory_and_comes_down_as_it_was", async () => {
  const content = upload(3, "Grüße \u2028 🙂");
  const file = await created(content);
  assert.equal(file.status, "processed");
  assert.equal(file.bytes, Buffer.byteLength(content));
  assert.deepEqual(await client.files.retrieve(file.id), file);
  assert.equal(await (await client.files.content(file.id)).text(), content);
});

test("a_file_goes_up_from_disk", async () => {
  const path = join(folder, "questions.jsonl");
  writeFileSync(path, upload(3));
  const file = await client.files.create({ file: createReadStream(path), purpose: "batch" });
  assert.equal(file.filename, "questions.jsonl");
});

test("wait_for_processing_returns", async () => {
  const file = await created(upload(1));
  const waited = await client.files.waitForProcessing(file.id, { pollInterval: 10, maxWait: 1000 });
  assert.equal(waited.status, "processed");
});

test("a_batch_completes_in_input_order", async () => {
  const batch = await finished(await begun(upload(12), { metadata: { from: "node" } }));
  assert.equal(batch.status, "completed");
  assert.deepEqual(batch.request_counts, { total: 12, completed: 12, failed: 0 });
  assert.deepEqual(batch.metadata, { from: "node" });
  assert.equal(batch.error_file_id, null);
  const ids = (await lines(batch.output_file_id)).map((line) => line.custom_id);
  assert.deepEqual(ids, Array.from({ length: 12 }, (_, number) => `row-${12 - number}`));
});

test("an_output_is_read_as_a_stream", async () => {
  const batch = await finished(await begun(upload(50)));
  const response = await client.files.content(batch.output_file_id);
  const announced = (await client.files.retrieve(batch.output_file_id)).bytes;
  let bytes = 0;
  for await (const block of response.body) bytes += block.length;
  assert.equal(bytes, announced);
});

test("a_batch_of_refused_requests_is_completed_without_an_output", async () => {
  const batch = await finished(await begun(upload(2, "[[status=400]]", { temperature: -1 })));
  assert.equal(batch.status, "completed");
  assert.equal(batch.output_file_id, null);
  const statuses = (await lines(batch.error_file_id)).map((line) => line.response.status_code);
  assert.deepEqual(statuses, [400, 400]);
});

test("a_bad_line_fails_the_batch_and_is_named", async () => {
  const batch = await finished(await begun(upload(1) + "{not json\n"));
  assert.equal(batch.status, "failed");
  assert.deepEqual(batch.errors.data.map((error) => [error.line, error.code]), [[2, "invalid_json_line"]]);
});

test("a_batch_is_cancelled_and_an_ended_one_cannot_be", async () => {
  const batch = await begun(upload(2000));
  assert.equal((await client.batches.cancel(batch.id)).status, "cancelling");
  assert.equal((await finished(await client.batches.retrieve(batch.id))).status, "cancelled");
  const done = await finished(await begun(upload(1)));
  const stubborn = new OpenAI({ baseURL: client.baseURL, apiKey: client.apiKey, maxRetries: 2 });
  await assert.rejects(stubborn.batches.cancel(done.id), (error) => {
    assert.ok(error instanceof ConflictError);
    assert.match(error.message, /Cannot cancel a batch with status 'completed'\./);
    return true;
  });
});

test("files_and_batches_are_listed_page_by_page", async () => {
  const files = [await created(upload(1)), await created(upload(1)), await created(upload(1))];
  assert.deepEqual(await found(client.files.list({ limit: 1 }), files), ids(files).reverse());
  const batches = [await begun(upload(1)), await begun(upload(1)), await begun(upload(1))];
  assert.deepEqual(await found(client.batches.list({ limit: 1 }), batches), ids(batches).reverse());
});

test("models_are_listed_and_looked_up", async () => {
  const listed = [];
  for await (const model of client.models.list()) listed.push(model.id);
  assert.ok(listed.includes(process.env.COMPAT_MODEL));
  assert.equal((await client.models.retrieve(process.env.COMPAT_MODEL)).object, "model");
});

test("an_upload_goes_in_parts", async () => {
  const content = Buffer.from(upload(6));
  const params = { purpose: "batch", filename: "parts.jsonl", mime_type: "application/jsonl" };
  const begun = await client.uploads.create({ ...params, bytes: content.length });
  assert.equal(begun.status, "pending");
  const parts = [];
  for (const piece of [content.subarray(0, 100), content.subarray(100)]) {
    const data = await toFile(piece, "part");
    parts.push((await client.uploads.parts.create(begun.id, { data })).id);
  }
  const done = await client.uploads.complete(begun.id, { part_ids: parts });
  assert.equal(done.status, "completed");
  assert.equal(await (await client.files.content(done.file.id)).text(), content.toString());
  const other = await client.uploads.create({ ...params, bytes: 10 });
  assert.equal((await client.uploads.cancel(other.id)).status, "cancelled");
});

test("what_is_unknown_or_wrong_is_said_with_a_request_id", async () => {
  await refusal(client.files.retrieve("file-nowhere"), NotFoundError, /No such File object: file-nowhere/);
  await refusal(client.batches.retrieve("batch_nowhere"), NotFoundError, /No batch found with id/);
  await refusal(created("no json"), BadRequestError, /Must be \.jsonl/);
  const wrong = { input_file_id: "file-x", endpoint: "/v1/nothing", completion_window: "24h" };
  assert.equal((await refusal(client.batches.create(wrong), BadRequestError, /Supported values/)).param, "endpoint");
});

test("a_deleted_file_is_gone", async () => {
  const file = await created(upload(1));
  assert.deepEqual(await client.files.delete(file.id), { id: file.id, object: "file", deleted: true });
  await refusal(client.files.retrieve(file.id), NotFoundError, /No such File object/);
});

function ids(made) {
  return made.map((one) => one.id);
}

async function found(pages, made) {
  const seen = [];
  for await (const one of pages) {
    if (ids(made).includes(one.id)) seen.push(one.id);
    if (one.id === made[0].id) break;
  }
  return seen;
}

async function refusal(call, kind, message) {
  const error = await call.then(
    () => assert.fail("it was not refused"),
    (refused) => refused,
  );
  assert.ok(error instanceof APIError && error instanceof kind, String(error));
  assert.match(error.message, message);
  assert.ok(error.requestID);
  return error;
}
