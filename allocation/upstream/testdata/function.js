// SPDX-License-Identifier: Apache-2.0
//
// A cloud function by Node's own HTTP server: the tutorial's policy at
// /api/HttpTrigger1, and beside it functions with faults, each under its own name.
// It prints its port. KEY is the function key.
'use strict';
const http = require('http');

const key = process.env.KEY;
let flaky = 0;

function allocate(body, response) {
  const request = JSON.parse(body);
  const id = request.deviceRuntimeContext.registrationId;
  const pick = (part) => request.linkedHubs.filter((hub) => hub.includes(part)).pop();
  const hub = id.includes('-contoso-tstrsd-007') ? pick('-toasters-') : id.includes('-contoso-hpsd-088') ? pick('-heatpumps-') : undefined;
  if (hub === undefined) {
    response.writeHead(400, { 'Content-Type': 'text/plain; charset=utf-8' });
    response.end('Unrecognized device registration.');
    return;
  }
  response.writeHead(200, { 'Content-Type': 'application/json; charset=utf-8' });
  response.end(JSON.stringify({ iotHubHostName: hub, initialTwin: { tags: { by: 'node' } }, payload: { sent: body.length } }));
}

const functions = {
  HttpTrigger1: (request, response, body) => allocate(body, response),
  chunked: (request, response) => {
    response.writeHead(200);
    for (const c of '{"iotHubHostName":"b"}') response.write(c);
    response.end();
  },
  flaky: (request, response, body) => {
    if (++flaky % 3 === 0) return allocate(body, response);
    request.socket.resetAndDestroy();
  },
  reset: (request) => request.socket.resetAndDestroy(),
  hang: () => {},
  drip: (request, response) => {
    response.writeHead(200);
    const timer = setInterval(() => response.write(' '), 20);
    request.socket.on('close', () => clearInterval(timer));
  },
  short: (request, response) => {
    response.writeHead(200, { 'Content-Length': 1000 });
    response.write('{"iotHubHostName":');
    setTimeout(() => request.socket.destroy(), 10);
  },
  throttled: (request, response) => {
    response.writeHead(429, { 'Retry-After': '3600' });
    response.end();
  },
  stopped: (request, response) => {
    response.writeHead(403, { 'Content-Type': 'text/html' });
    response.end('<!DOCTYPE html><title>Web App - Unavailable</title>');
  },
  login: (request, response) => {
    response.writeHead(302, { Location: '/api/HttpTrigger1?state=1' });
    response.end();
  },
  huge: (request, response) => {
    response.writeHead(200);
    response.end('['.repeat(10 << 20));
  },
  html: (request, response) => {
    response.writeHead(200, { 'Content-Type': 'text/html; charset=utf-8' });
    response.end('<html>Your app is up and running.</html>');
  },
};

const server = http.createServer((request, response) => {
  const chunks = [];
  request.on('data', (chunk) => chunks.push(chunk));
  request.on('end', () => {
    if (request.headers['x-functions-key'] !== key) {
      response.writeHead(401);
      response.end();
      return;
    }
    const called = functions[request.url.replace('/api/', '')];
    if (request.method !== 'POST' || called === undefined) {
      response.writeHead(404);
      response.end();
      return;
    }
    called(request, response, Buffer.concat(chunks).toString());
  });
});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
process.stdin.resume().on('end', () => process.exit(0));
