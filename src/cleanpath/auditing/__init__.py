"""Find the residual units of any network and measure the signal through them.

`examine.audit` runs the audit; `profile.Profile` is its result and needs no torch. Inside, in the order of work:
`patient` keeps the module's state, `passes` runs it, `record` notes operations, `graph` reads autograd, `sums`,
`shortcut`, `trace` and `doubts` find the units, `describe` looks around them, `forward` and `backward` measure,
`rows` makes the profile, `unseen` and `nonfinite` tell what is amiss, `verdict` says it in a sentence.
"""
