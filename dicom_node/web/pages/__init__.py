"""The pages that people look at: rendered on the server, alive by server-sent events, usable without either script or mouse.

site        templates, static files, the headers of every page
language    English and Chinese, dates and durations in the reader's way
words       the states and kinds of this node, as people read them
menu        what stands in the navigation, and who sees it
preferences language and theme, kept in cookies
errors      refusals as pages, for whoever asked for a page
One module for each page besides; its templates, style sheet and script bear its name.
"""
