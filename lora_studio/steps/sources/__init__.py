"""Where pictures come from. A source is a plain function of its settings that yields candidates one by one."""
