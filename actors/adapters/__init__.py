"""Where the actors touch the world: brokers, databases, disks; one file per adapter of a port."""
