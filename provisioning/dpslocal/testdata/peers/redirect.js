// SPDX-License-Identifier: Apache-2.0

// Microsoft's clients know the ports 443 and 8883 only, and some the real names of
// hubs. This leads what they open there to another port of this machine; the
// name that the certificate must bear stays.
'use strict';

const net = require('net');

exports.redirect = (port) => {
  const connect = net.Socket.prototype.connect;
  net.Socket.prototype.connect = function (...args) {
    const [options, callback] = Array.isArray(args[0]) ? args[0] : args;
    if (![443, 8883].includes(Number(options.port))) {
      return connect.apply(this, args);
    }
    return connect.call(this, { ...options, host: 'localhost', port }, callback);
  };
};
