// Posts bodies at a constant rate of arrival, whether earlier ones are answered or not.
import http from "k6/http";
import exec from "k6/execution";

const minutes = Number(__ENV.MINUTES || 0);
const size = Number(__ENV.SIZE);
const bodies = open(__ENV.BODIES, "b");
const count = bodies.byteLength / size;
const each = {};
// What has a threshold is reported apart; these are always met.
each["http_req_duration{scenario:load}"] = ["max>=0"];
each["http_req_failed{scenario:load}"] = ["rate>=0"];
each["http_reqs{scenario:load}"] = ["count>=0"];
each["dropped_iterations{scenario:load}"] = ["count>=0"];
for (let minute = 0; minute < minutes; minute++) {
  each[`http_req_duration{minute:${minute}}`] = ["max>=0"];
}
const arrivals = {
  executor: "constant-arrival-rate",
  rate: Number(__ENV.RATE),
  timeUnit: "1s",
  preAllocatedVUs: Number(__ENV.CONNECTIONS),
  gracefulStop: "3s",
};
const warmUp = Number(__ENV.WARM_UP);

export const options = {
  discardResponseBodies: true,
  summaryTrendStats: ["med", "p(99)", "max", "count"],
  thresholds: each,
  scenarios: {
    warmup: { ...arrivals, duration: `${warmUp}s`, gracefulStop: "0s" },
    load: { ...arrivals, startTime: `${warmUp}s`, duration: `${__ENV.SECONDS}s` },
  },
};

let turn = (__VU * 7) % count;

export default function () {
  turn = (turn + 1) % count;
  const body = bodies.slice(turn * size, (turn + 1) * size);
  const tags = {};
  if (minutes && exec.scenario.name === "load") {
    tags.minute = `${Math.floor((Date.now() - exec.scenario.startTime) / 60000)}`;
  }
  http.post(__ENV.URL, body, { headers: { "content-type": __ENV.CONTENT_TYPE }, tags: tags });
}

export function handleSummary(data) {
  return { stdout: JSON.stringify(data.metrics) };
}
