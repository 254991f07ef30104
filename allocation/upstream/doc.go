// SPDX-License-Identifier: Apache-2.0

// Package upstream asks a cloud function for an allocation: for a webhook in
// front mode, which decides by itself only while the function is unavailable, and
// for whoever wants to compare the function with a policy.
//
// [Client] posts the bytes of an AllocationRequest as they came, unknown members
// included, and says what the answer means. The function's own contract with the
// service (dps-protocol 12.4) calls every status below 429 but 200 the end of the
// registration. Here it must also be told who speaks, because between the webhook
// and the function there are a host, a gateway and perhaps a proxy, which answer
// in its name:
//
//	answer                                  means       what the webhook does
//	200 with an AllocationResponse          assigned    passes its bytes on
//	400; 402, 406, 409, 410, 412, 416 to    refused     passes the refusal on as 400
//	    420, 422 to 424, 427, 428
//	401                                     unavailable the site's policy answers: the
//	                                                    function key is wrong
//	403, 404, 405, 407, 408, 421, 425, 426  unavailable likewise: an app that is stopped,
//	                                                    removed, restricted or elsewhere
//	3xx                                     unavailable likewise: a login page or a move;
//	                                                    redirects are not followed
//	429 and above                           unavailable likewise, after short retries
//	a page for people (text/html, or a      unavailable likewise, whatever the status
//	    body that begins with <)
//	no connection, no TLS, no answer in     unavailable likewise, after short retries
//	    time, an answer cut short                       unless it was a matter of time
//	200 with anything else, other 2xx,      wrong       answers 503
//	    411, 413, 414, 415
//
// So a 404 is not taken for a refusal: a function app that was deleted would
// refuse every appliance for good. A function that wants to refuse answers 400, as
// the tutorial's does.
//
// "Wrong" is a function that is there and has a bug: an empty hub, a hub outside
// linkedHubs, an object cut short. The site's policy is not asked then, because
// nobody knows what the function meant, and an appliance must not go elsewhere
// for a slip in an answer. The answer is not passed on either, because the service
// would end the registration for good. 503 makes it ask again for about seven
// minutes, and the log calls for a person.
//
// A certificate that does not fit counts as no connection: the function cannot be
// had, and nothing that the other side says is used.
//
// [Breaker] stands before a Client, so that a function that is away costs one
// appliance a wait now and then, and not every appliance one.
//
// One appliance may get two answers, one by the function and one by the fallback,
// when it registers twice while the function comes or goes. The eleven calls that
// the service makes for one registration do not: it stops asking at the first
// answer below 429. Every decision is logged with its source, so that such a pair
// can be found.
package upstream
