"""Makes an agent, a layer at a time, each of the layers below: ground, company, work, agent."""
