"""Secure sums: a server learns the sum of its clients' integer vectors, and nothing else of any of them.

Pairwise masks that cancel, a second mask a client, and Shamir shares of both, so that clients may drop out
(Bonawitz et al. 2017, "Practical Secure Aggregation for Privacy-Preserving Machine Learning"). Pure: `client` and
`server` are two state machines, `messages` what they send, and nothing here opens a socket or a file but `keys.Roster`.

    client                                  server
    advertise()                  ── advert ──►  receive_advert   close_adverts()
    share(adverts)               ── shares ──►  receive_shares   close_shares()
    mask(values, inbox)          ── masked ──►  receive_masked   close_masked()
    confirm(survivors)           ── signed ──►  receive_confirmation   close_confirmations()
    unmask(confirmations)        ── reveal ──►  receive_reveal   total()

A client that misses one step is out of the round. Which client falls out must not depend on its values or its noise.
"""
