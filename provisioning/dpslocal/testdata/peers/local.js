// SPDX-License-Identifier: Apache-2.0

// What the operators' scripts share: Microsoft's clients take no port, so their
// connections are led to ADDRESS by an agent, whatever host they name.
'use strict';

const https = require('https');

exports.say = (what) => console.log(JSON.stringify(what));

const dns = require('dns');

exports.agentTo = (address) => {
  const [host, port] = address.split(':');
  const agent = new https.Agent({
    lookup: (name, options, done) => dns.lookup(host, options, done),
  });
  agent.defaultPort = Number(port);
  return agent;
};
